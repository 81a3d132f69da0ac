//! The protocol of a race: events of two branches in, steps out, one result.
