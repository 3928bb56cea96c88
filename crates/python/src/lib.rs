//! `forebay._core`: what the Python package needs of the crates, and no more.
//!
//! ```text
//! Loader.next() ─▶ {name: Tensor}   memory of the batch itself, shared by DLPack or array interface
//! DeviceLoader.next(), load_tensors(…) ─▶ {name: Shared}   memory of a device or of the host
//! Documents ─▶ __arrow_c_stream__    the rows of a dataset as Arrow, a batch at a time
//! run(…), perform(…) ─▶ JSON         a recipe, or a task of one
//! ```
//! Errors are exceptions of `forebay.errors`, one a kind. The GIL is free while Rust works.

#![allow(clippy::needless_pass_by_value, reason = "arguments come from Python as values")]

mod device;
mod dlpack;
mod documents;
mod error;
mod loader;
mod recipe;
mod remote;
mod tensor;
mod tensors;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<loader::Loader>()?;
    module.add_class::<tensor::Tensor>()?;
    module.add_class::<device::DeviceLoader>()?;
    module.add_class::<dlpack::Shared>()?;
    module.add_class::<tensors::Reader>()?;
    module.add_function(wrap_pyfunction!(tensors::load_tensors, module)?)?;
    module.add_function(wrap_pyfunction!(tensors::save_tensors, module)?)?;
    module.add_function(wrap_pyfunction!(tensors::self_test, module)?)?;
    module.add_class::<documents::Documents>()?;
    module.add_class::<remote::Local>()?;
    module.add_function(wrap_pyfunction!(remote::local, module)?)?;
    module.add_function(wrap_pyfunction!(recipe::read_recipe, module)?)?;
    module.add_function(wrap_pyfunction!(recipe::run, module)?)?;
    module.add_function(wrap_pyfunction!(recipe::stages, module)?)?;
    module.add_function(wrap_pyfunction!(recipe::bytes_to_read, module)?)?;
    module.add_function(wrap_pyfunction!(recipe::perform, module)?)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    Ok(())
}
