"""Five studies of reward models, on the demo world and on real text: what each option is good for, with intervals."""
