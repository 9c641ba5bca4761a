"""What a GPU host shows in one call, without Ray: matrix rates, training steps, label liars, aims and figures."""
