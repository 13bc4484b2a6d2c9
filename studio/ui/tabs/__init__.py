"""The tabs of the page. They do not know each other; `studio.ui.app` connects them."""
