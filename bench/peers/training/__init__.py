"""The training harness beside a plain loop over the same model.  Runs both as programs: imports nothing of training."""
