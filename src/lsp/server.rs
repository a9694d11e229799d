//! The conversation with the editor.

use std::collections::HashMap;

use lsp_server::{Connection, ErrorCode, Message, Notification, Request, Response};
use lsp_types::notification::{
    DidChangeTextDocument, DidCloseTextDocument, DidOpenTextDocument, DidSaveTextDocument, Notification as _,
    PublishDiagnostics,
};
use lsp_types::request::{
    Completion, DocumentSymbolRequest, Formatting, GotoDefinition, HoverRequest, Request as _,
};
use lsp_types::{
    CompletionOptions, CompletionResponse, DocumentSymbolResponse, HoverProviderCapability, InitializeParams,
    InitializeResult, OneOf, PublishDiagnosticsParams, ServerCapabilities, ServerInfo,
    TextDocumentPositionParams, TextDocumentSyncCapability, TextDocumentSyncKind, TextDocumentSyncOptions,
    TextDocumentSyncSaveOptions, Uri,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::document::Document;
use super::position::Encoding;
use super::{complete, describe, report};
use crate::diagnostic::{Diagnostic, Result};
use crate::world::World;

/// Speaks with an editor on standard input and output until it says `exit`. `models` gives the names of the store.
///
/// # Errors
/// The editor breaks the protocol, or leaves without a word.
pub fn serve(world: &dyn World, models: &dyn Fn() -> Vec<String>) -> Result<()> {
    let (connection, threads) = Connection::stdio();
    converse(&connection, world, models)?;
    // The writing thread ends when nobody can write any more.
    drop(connection);
    threads.join().map_err(|e| Diagnostic::environment(format!("the connection to the editor: {e}")).into())
}

fn broken(error: impl std::fmt::Display) -> Diagnostic {
    Diagnostic::error(format!("the editor does not keep to the protocol: {error}")).code("lsp")
}

fn converse(connection: &Connection, world: &dyn World, models: &dyn Fn() -> Vec<String>) -> Result<()> {
    let (id, params) = connection.initialize_start().map_err(broken)?;
    let params: InitializeParams = serde_json::from_value(params).map_err(broken)?;
    let general = params.capabilities.general.as_ref();
    let encoding = Encoding::choose(general.and_then(|g| g.position_encodings.as_deref()));
    let result = serde_json::to_value(capabilities(encoding)).map_err(broken)?;
    connection.initialize_finish(id, result).map_err(broken)?;
    let mut server = Server { connection, world, models, encoding, documents: HashMap::new() };
    for message in &connection.receiver {
        match message {
            Message::Request(request) => {
                if connection.handle_shutdown(&request).map_err(broken)? {
                    return Ok(());
                }
                server.answer(request)?;
            }
            Message::Notification(notification) => server.take(notification)?,
            Message::Response(_) => {}
        }
    }
    Err(broken("it left without `shutdown`").into())
}

/// What the server can do.
fn capabilities(encoding: Encoding) -> InitializeResult {
    InitializeResult {
        capabilities: ServerCapabilities {
            position_encoding: Some(encoding.name()),
            text_document_sync: Some(TextDocumentSyncCapability::Options(TextDocumentSyncOptions {
                open_close: Some(true),
                change: Some(TextDocumentSyncKind::FULL),
                save: Some(TextDocumentSyncSaveOptions::Supported(true)),
                ..TextDocumentSyncOptions::default()
            })),
            completion_provider: Some(CompletionOptions {
                trigger_characters: Some([" ", "/"].map(str::to_owned).into()),
                ..CompletionOptions::default()
            }),
            hover_provider: Some(HoverProviderCapability::Simple(true)),
            definition_provider: Some(OneOf::Left(true)),
            document_symbol_provider: Some(OneOf::Left(true)),
            document_formatting_provider: Some(OneOf::Left(true)),
            ..ServerCapabilities::default()
        },
        server_info: Some(ServerInfo {
            name: "mdl".to_owned(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        }),
    }
}

struct Server<'a> {
    connection: &'a Connection,
    world: &'a dyn World,
    models: &'a dyn Fn() -> Vec<String>,
    encoding: Encoding,
    /// By URI.
    documents: HashMap<String, Document>,
}

impl Server<'_> {
    fn send(&self, message: impl Into<Message>) -> Result<()> {
        let gone = |_| Diagnostic::environment("the editor has gone").into();
        self.connection.sender.send(message.into()).map_err(gone)
    }

    /// A document has changed, or one that it reads may have.
    fn check(&mut self, uri: Uri, version: i32, text: String) -> Result<()> {
        let document = Document::new(self.world, uri, version, text);
        let diagnostics = report::diagnostics(&document, self.encoding);
        self.documents.insert(document.uri.as_str().to_owned(), document);
        self.send(Notification::new(PublishDiagnostics::METHOD.to_owned(), diagnostics))
    }

    fn take(&mut self, notification: Notification) -> Result<()> {
        fn params<N: lsp_types::notification::Notification>(notification: Notification) -> Option<N::Params>
        where
            N::Params: DeserializeOwned,
        {
            // What cannot be read is passed over: a notification has no answer.
            notification.extract(N::METHOD).ok()
        }
        match notification.method.as_str() {
            DidOpenTextDocument::METHOD => {
                let Some(opened) = params::<DidOpenTextDocument>(notification) else { return Ok(()) };
                let document = opened.text_document;
                self.check(document.uri, document.version, document.text)
            }
            DidChangeTextDocument::METHOD => {
                let Some(changed) = params::<DidChangeTextDocument>(notification) else { return Ok(()) };
                let document = changed.text_document;
                let Some(text) = changed.content_changes.into_iter().next_back() else { return Ok(()) };
                self.check(document.uri, document.version, text.text)
            }
            DidSaveTextDocument::METHOD => {
                // A file that FROM names may have come meanwhile.
                let Some(saved) = params::<DidSaveTextDocument>(notification) else { return Ok(()) };
                let known = self.documents.remove(saved.text_document.uri.as_str());
                known.map_or(Ok(()), |d| self.check(d.uri, d.version, d.text))
            }
            DidCloseTextDocument::METHOD => {
                let Some(closed) = params::<DidCloseTextDocument>(notification) else { return Ok(()) };
                let uri = closed.text_document.uri;
                self.documents.remove(uri.as_str());
                let nothing = PublishDiagnosticsParams { uri, diagnostics: Vec::new(), version: None };
                self.send(Notification::new(PublishDiagnostics::METHOD.to_owned(), nothing))
            }
            _ => Ok(()),
        }
    }

    fn answer(&self, request: Request) -> Result<()> {
        match request.method.as_str() {
            Completion::METHOD => self.reply::<Completion>(request, |params| {
                let (document, offset) = self.place(&params.text_document_position)?;
                let items = complete::complete(self.world, self.models, document, self.encoding, offset);
                Some(CompletionResponse::Array(items))
            }),
            HoverRequest::METHOD => self.reply::<HoverRequest>(request, |params| {
                let (document, offset) = self.place(&params.text_document_position_params)?;
                describe::hover(self.world, document, self.encoding, offset)
            }),
            GotoDefinition::METHOD => self.reply::<GotoDefinition>(request, |params| {
                let (document, offset) = self.place(&params.text_document_position_params)?;
                describe::definition(self.world, document, offset)
            }),
            DocumentSymbolRequest::METHOD => self.reply::<DocumentSymbolRequest>(request, |params| {
                let document = self.documents.get(params.text_document.uri.as_str())?;
                Some(DocumentSymbolResponse::Nested(report::symbols(document, self.encoding)))
            }),
            Formatting::METHOD => self.reply::<Formatting>(request, |params| {
                let document = self.documents.get(params.text_document.uri.as_str())?;
                report::format(document, self.encoding)
            }),
            method => {
                let message = format!("mdl does not answer `{method}`");
                self.send(Response::new_err(request.id, ErrorCode::MethodNotFound as i32, message))
            }
        }
    }

    /// Answers a request; what is not known is null.
    fn reply<R: lsp_types::request::Request>(
        &self,
        request: Request,
        answer: impl FnOnce(R::Params) -> R::Result,
    ) -> Result<()>
    where
        R::Params: DeserializeOwned,
        R::Result: Serialize,
    {
        let id = request.id.clone();
        let response = match request.extract::<R::Params>(R::METHOD) {
            Ok((id, params)) => Response::new_ok(id, answer(params)),
            Err(error) => Response::new_err(id, ErrorCode::InvalidParams as i32, error.to_string()),
        };
        self.send(response)
    }

    /// The document and the byte that a request is about.
    fn place(&self, at: &TextDocumentPositionParams) -> Option<(&Document, usize)> {
        let document = self.documents.get(at.text_document.uri.as_str())?;
        Some((document, self.encoding.offset(&document.text, at.position)))
    }
}
