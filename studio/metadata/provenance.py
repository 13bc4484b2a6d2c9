"""The IPTC mark that says that a picture was generated: XMP, `Iptc4xmpExt:DigitalSourceType`."""

from pipelines.spec.values import Task

NAMESPACE = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def xmp(task: Task) -> str:
    """Return the XMP packet of a picture: generated whole, or parts of a given one (inpaint)."""
    kind = "compositeWithTrainedAlgorithmicMedia" if task is Task.INPAINT else "trainedAlgorithmicMedia"
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{NAMESPACE}">'
        f"<Iptc4xmpExt:DigitalSourceType>{VOCABULARY}{kind}</Iptc4xmpExt:DigitalSourceType>"
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )
