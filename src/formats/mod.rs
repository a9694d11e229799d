//! Untrusted bytes in, checked values out: GGUF, Safetensors, Hugging Face configurations, adapters.
