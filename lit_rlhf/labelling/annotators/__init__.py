"""Programs as annotators: rules, reward models, and language models, in the same store and as blind as people."""
