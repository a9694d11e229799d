//! Stub.
use crate::diagnostic::Result;
/// Renders.
#[derive(Clone, Debug, Default)]
pub struct Renderer {}
impl Renderer {
    /// In this process.
    pub fn in_process() -> Renderer {
        Renderer {}
    }
    /// For a server.
    ///
    /// # Errors
    /// None.
    pub fn for_server() -> Result<Renderer> {
        Ok(Renderer {})
    }
}
