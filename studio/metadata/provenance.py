"""The IPTC mark that says that a picture was generated: XMP, `Iptc4xmpExt:DigitalSourceType`."""

import re

from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.upscalers import UPSCALERS
from pipelines.spec.values import Task

NAMESPACE = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"

_SAID = re.compile(r"newscodes/digitalsourcetype/([A-Za-z]{1,80})")
_GENERATED = frozenset({"trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"})


def source_type(request: ResolvedRequest, source_xmp: str) -> str | None:
    """Return IPTC's term for a picture: generated whole, or parts of a given one (inpaint).

    One that was only made larger is what it was, if anything is known of that; a model file adds details to it.

    Args:
        request: what made it.
        source_xmp: the XMP packet of what it was made from; may be empty.
    """
    if request.paints_nothing:
        said = _SAID.search(source_xmp)
        before = said[1] if said else None
        by_model_file = request.upscaler not in {None, *UPSCALERS}
        return "algorithmicallyEnhanced" if by_model_file and before not in _GENERATED else before
    return "compositeWithTrainedAlgorithmicMedia" if request.task is Task.INPAINT else "trainedAlgorithmicMedia"


def xmp(kind: str) -> str:
    """Return the XMP packet that says a term of IPTC."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{NAMESPACE}">'
        f"<Iptc4xmpExt:DigitalSourceType>{VOCABULARY}{kind}</Iptc4xmpExt:DigitalSourceType>"
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )
