"""Many annotators at once: a real ``lit-rlhf label serve`` over loopback, how fast it answers, and whether what it
acknowledged is in the file, each judgement once."""
