"""The benchmarks of response trees on a CUDA GPU."""
