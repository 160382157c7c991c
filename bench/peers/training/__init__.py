"""The training harness beside a plain loop over the same model.  Runs both as programs; does not import training."""
