//! The binary: what the command line says, and its exit code.

fn main() -> std::process::ExitCode {
    weighbridge::cli::run()
}
