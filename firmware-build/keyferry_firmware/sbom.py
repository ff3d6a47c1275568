"""The software bill of materials of a build, CycloneDX 1.6, the same bytes for the same build."""

# The library's class decorators hide its constructors from the type checker.
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false

import json
import uuid
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL


def make(record: dict[str, Any]) -> bytes:
    """The bill for a build record: image, modules by hash, base firmware, tools."""
    version = record["keyferry"]["version"]
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(record, sort_keys=True)))
    image = Component(
        name="keyferry-image",
        type=ComponentType.FIRMWARE,
        version=version,
        bom_ref="image",
        licenses=[DisjunctiveLicense(id="Apache-2.0")],
        properties=[Property(name="keyferry:board", value=record["board"]["name"])],
    )
    bom.metadata.component = image
    for name, tool in record["tools"].items():
        bom.metadata.tools.components.add(
            Component(
                name=name,
                type=ComponentType.APPLICATION,
                version=tool,
                bom_ref="tool:" + name,
                purl=PackageURL("pypi", name=name, version=tool),
            )
        )
    parts = [_module(module, version) for module in record["modules"]]
    if record["base"] is not None:
        base = record["base"]
        parts.append(
            Component(
                name="micropython",
                type=ComponentType.FIRMWARE,
                version=base["micropython"],
                bom_ref="base",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=base["sha256"])],
                licenses=[DisjunctiveLicense(id="MIT")],
            )
        )
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(image, parts)
    value = json.loads(JsonV1Dot6(bom).output_as_string())
    del value["metadata"]["timestamp"]  # optional there; it would make two builds differ
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


def _module(module: dict[str, Any], version: str) -> Component:
    own = module["part"] == "application"
    return Component(
        name=module["path"],
        type=ComponentType.FILE,
        version=None if own else version,
        bom_ref="file:" + module["path"],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=module["sha256"])],
        licenses=None if own else [DisjunctiveLicense(id="Apache-2.0")],
    )
