use forebay_load::Error as LoadError;
use forebay_load::device::gpu::Error as GpuError;
use forebay_shard::Error as ShardError;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// Which exception of `forebay.errors` an error becomes.
fn kind(error: &LoadError) -> &'static str {
    match error {
        LoadError::Config { what, .. } if what == "version of the state" => "VersionError",
        LoadError::OtherDataset { .. } | LoadError::OtherOrder { .. } => "StateError",
        LoadError::Config { what, .. } if what == "position" || what.contains("state") => {
            "StateError"
        }
        LoadError::Gpu(error) => of_gpu(error),
        LoadError::Config { .. } | LoadError::TooSmall { .. } => "ConfigError",
        LoadError::Shard(error) => of_shard(error),
        LoadError::Store(_) if !error.is_corrupt() => "StorageError",
        _ if error.is_corrupt() => "CorruptError",
        _ => "Error",
    }
}

fn of_gpu(error: &GpuError) -> &'static str {
    match error {
        GpuError::Store(_) => "StorageError",
        GpuError::Tensors { .. } | GpuError::Differs { .. } => "CorruptError",
        GpuError::Wrong { .. } => "ConfigError",
        _ if error.is_device() => "DeviceError",
        _ => "Error",
    }
}

pub(crate) fn gpu(error: &GpuError) -> PyErr {
    raise(of_gpu(error), &chain(error), error.hint())
}

fn of_shard(error: &ShardError) -> &'static str {
    match error {
        ShardError::NotADataset { .. }
        | ShardError::Lacks { .. }
        | ShardError::OtherFormat { .. }
        | ShardError::NotText { .. } => "NotADatasetError",
        ShardError::Newer { .. } => "VersionError",
        ShardError::Corrupt { .. } => "CorruptError",
        ShardError::Store(_) => "StorageError",
        _ => "InputError",
    }
}

pub(crate) fn load(error: &LoadError) -> PyErr {
    raise(kind(error), &chain(error), error.hint())
}

pub(crate) fn store(error: forebay_store::Error) -> PyErr {
    load(&LoadError::Store(error))
}

pub(crate) fn shard(error: &ShardError) -> PyErr {
    raise(of_shard(error), &chain(error), error.hint())
}

pub(crate) fn pipeline(error: &forebay_pipeline::Error) -> PyErr {
    use forebay_pipeline::Error as RunError;
    let name = match error {
        RunError::Interrupted => "Interrupted",
        RunError::Shard(error) => of_shard(error),
        RunError::Store(_) => "StorageError",
        RunError::NoDocuments { .. } | RunError::Tokens { .. } => "InputError",
        _ => "ConfigError",
    };
    raise(name, &chain(error), error.hint())
}

pub(crate) fn config(message: &str) -> PyErr {
    raise("ConfigError", message, None)
}

/// The message and its causes, as the command line prints them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn raise(name: &str, message: &str, hint: Option<String>) -> PyErr {
    Python::attach(|py| {
        let class = py.import("forebay.errors").and_then(|module| module.getattr(name));
        match class.and_then(|class| Ok(class.cast_into::<PyType>()?)) {
            Ok(class) => PyErr::from_type(class, (message.to_owned(), hint)),
            Err(error) => error,
        }
    })
}
