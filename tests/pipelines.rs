//! What a pipeline does with `mdl`: locks, reports, and the ways to find out more. Real processes on the storyteller model.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "pipelines/place.rs"]
mod place;

#[path = "pipelines/lock.rs"]
mod lock;

#[path = "pipelines/reports.rs"]
mod reports;
