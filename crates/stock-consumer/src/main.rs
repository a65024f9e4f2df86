//! The stock-consumer process.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    service_runtime::main::<stock_consumer::StockConsumer>()
}
