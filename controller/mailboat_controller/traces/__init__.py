"""One release's story from its submission to what devices made of it (docs/traces.md)."""
