//! Speaks to a running server, over its Ollama dialect.
//!
//! | file | what it holds |
//! |---|---|
//! | [`place`] | where the server is, as `MDL_HOST` and `OLLAMA_HOST` say it |
//! | [`http`] | requests: an answer whole, or line by line |
//! | [`running`] | the models in a server's memory |

pub mod http;
pub mod place;
pub mod running;

pub use http::Client;
pub use place::Place;
