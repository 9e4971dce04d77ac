"""What every command shares: opening and preparing, one phase of training, measuring, gates, where a result goes."""
