//! The content-addressed store: blobs, manifests, names, locks, collection of garbage.
