//! What the operating system sees of this process: its sockets, user, pid file, log file, and the way into and out of service.
//!
//! At start ([`standing`]): sockets (taken over, given or bound) → pid file → log file → privileges dropped. Then the data plane serves its first
//! complete snapshot, and only then is anybody told so: the process before this one, the pid file, the service manager, the shell.

pub mod background;
pub mod handover;
pub mod log_file;
pub mod notify;
pub mod pid_file;
pub mod privileges;
pub mod sockets;
pub mod standing;
