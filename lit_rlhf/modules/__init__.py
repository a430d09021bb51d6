"""The LightningModules: one phase, one file, one story."""
