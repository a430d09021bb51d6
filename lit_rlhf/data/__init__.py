"""Files to rows to response trees to batches."""
