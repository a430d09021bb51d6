"""The demo world: a grammar, a gold reward, labellers; nothing to download."""
