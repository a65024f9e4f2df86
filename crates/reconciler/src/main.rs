//! The reconciler process.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    service_runtime::main::<reconciler::Reconciler>()
}
