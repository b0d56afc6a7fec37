//! One decoder, described by data a family, on candle tensors; and its KV cache.
