//! What a pipeline does with `mdl`: locks, reports, and the ways to find out more. Real processes on the storyteller model.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "pipelines/place.rs"]
mod place;

#[path = "pipelines/archive.rs"]
mod archive;

#[path = "pipelines/cache.rs"]
mod cache;

#[path = "pipelines/docs.rs"]
mod docs;

#[path = "pipelines/lock.rs"]
mod lock;

#[path = "pipelines/provenance.rs"]
mod provenance;

#[path = "pipelines/reports.rs"]
mod reports;

#[path = "pipelines/room.rs"]
mod room;
