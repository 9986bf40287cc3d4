//! The binary: what the command line says, and its exit code.

/// Bodies and entries are allocated and freed on different threads, where the C library's allocator is slow, and memory
/// goes back after bursts.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    weighbridge::cli::run()
}
