//! What a request may cost, as one table.

use std::time::Duration;

/// The limits of the server. `mdl serve --help` lists those that can be set: body, connections, times and
/// queue; the others are as they stand here.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a JSON body.
    pub body: usize,
    /// Bytes of a request's headers.
    pub headers: usize,
    /// Headers of a request.
    pub header_count: usize,
    /// Time for a request's headers.
    pub header_time: Duration,
    /// Time without a byte of a body.
    pub body_idle: Duration,
    /// Time that a client may leave what is sent to it unread.
    pub write_idle: Duration,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// Requests that wait for a model or a slot.
    pub queue: usize,
    /// Answers to one request (`n`).
    pub choices: u32,
    /// Texts of one request to embed.
    pub inputs: usize,
    /// Stop texts of a request.
    pub stops: usize,
    /// Parts of an answer that a slow client may leave unread.
    pub unread_parts: usize,
    /// Time for running requests when the server is told to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body: 8 << 20,
            headers: 64 << 10,
            header_count: 100,
            header_time: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            write_idle: Duration::from_secs(60),
            connections: 2048,
            queue: 512,
            choices: 128,
            inputs: 2048,
            stops: 128,
            unread_parts: 4096,
            drain: Duration::from_secs(25),
        }
    }
}
