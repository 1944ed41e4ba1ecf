"""DEQ-Flow: optical flow as the fixed point of a learned update operator."""
