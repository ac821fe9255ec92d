"""Moved to models.params."""

from models.params import Section, SectionT, load_section, parse_section, read_params

__all__ = ["Section", "SectionT", "load_section", "parse_section", "read_params"]
