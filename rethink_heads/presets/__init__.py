"""The presets that come with the package: one YAML file each, read by ``rethink_heads.config``."""
