"""Files of other labelling tools: read as items and judgements, and written from them."""
