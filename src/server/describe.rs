//! What a stored model is, without loading it.
