//! Every pass in order, on one screen.
