"""Vectors from one place to another: out of stores and files, into stores and files."""

from embstore.moving.bake import bake
from embstore.moving.files import export_store, import_store, read_manifest
from embstore.moving.manifest import Manifest, Part
from embstore.moving.merge import merge
from embstore.moving.places import MoveReport

__all__ = [
    "Manifest",
    "MoveReport",
    "Part",
    "bake",
    "export_store",
    "import_store",
    "merge",
    "read_manifest",
]
