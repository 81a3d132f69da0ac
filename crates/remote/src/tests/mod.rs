//! The transport and the storage against servers: the embedded one with and without faults, and worse ones.

mod connections;
mod credentials;
mod downloads;
mod fake;
mod faults;
mod harness;
mod hostile;
mod http;
mod tls;
mod uploads;
