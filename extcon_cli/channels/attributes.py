"""Attributes that the code of people's modules reads: how many heads, how wide a view, which eps. Names only."""

COUNTS = ("num_heads", "n_heads", "n_head", "heads", "nhead", "num_attention_heads", "num_key_value_heads",
          "hidden_dim", "width", "c")  # fmt: skip
WIDTHS = ("all_head_size", "attn_dim", "split_size", "inner_dim", "expand_chs", "in_channels")
"""Attributes that say how many heads an attention has, how wide a view is, and how wide the heads are together."""

EPSILONS = ("variance_epsilon", "eps", "epsilon", "norm_eps", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
"""Attributes that hold what a norm in a module's own code adds to its mean."""
