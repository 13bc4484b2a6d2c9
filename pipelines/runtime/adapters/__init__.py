"""LoRAs and their kin: read from files, checked key by key, applied beside the base weights and taken off again."""
