//! The quick benchmark's command line.

// As in the services: what is compared shares its allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    benchmarks::main()
}
