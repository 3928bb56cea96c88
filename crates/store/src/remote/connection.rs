//! What the tools of Azure read from the environment, beside the names that the library knows.

use std::io::{self, ErrorKind};

use object_store::azure::AzureConfigKey as Key;

/// Account and key of Azurite, the same for everybody.
pub(super) const EMULATOR: (&str, &str) = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
);

/// Of `AZURE_STORAGE_CONNECTION_STRING`, `AZURE_STORAGE_ACCOUNT`, `AZURE_STORAGE_KEY`.
pub(super) fn of_environment() -> io::Result<Vec<(Key, String)>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut found = match variable("AZURE_STORAGE_CONNECTION_STRING") {
        Some(text) => parse(&text)?,
        None => Vec::new(),
    };
    found.extend(variable("AZURE_STORAGE_ACCOUNT").map(|value| (Key::AccountName, value)));
    found.extend(variable("AZURE_STORAGE_KEY").map(|value| (Key::AccessKey, value)));
    Ok(found)
}

/// `AccountName=…;AccountKey=…;BlobEndpoint=…`, as the portal shows it.
fn parse(text: &str) -> io::Result<Vec<(Key, String)>> {
    let mut found = Vec::new();
    let (mut protocol, mut suffix, mut account) = ("https", None, None);
    for field in text.split(';').map(str::trim).filter(|field| !field.is_empty()) {
        // A value may hold `=`: keys end with it.
        let Some((name, value)) = field.split_once('=') else {
            let what = "AZURE_STORAGE_CONNECTION_STRING: expected NAME=VALUE;NAME=VALUE";
            return Err(io::Error::new(ErrorKind::InvalidInput, what));
        };
        match name.to_ascii_lowercase().as_str() {
            "accountname" => {
                account = Some(value);
                found.push((Key::AccountName, value.into()));
            }
            "accountkey" => found.push((Key::AccessKey, value.into())),
            "sharedaccesssignature" => found.push((Key::SasKey, value.into())),
            "blobendpoint" => found.push((Key::Endpoint, value.into())),
            "usedevelopmentstorage" => found.push((Key::UseEmulator, value.into())),
            "defaultendpointsprotocol" => protocol = value,
            "endpointsuffix" => suffix = Some(value),
            // Of queues and tables.
            _ => {}
        }
    }
    let has_endpoint = found.iter().any(|(key, _)| *key == Key::Endpoint);
    if let (false, Some(account), Some(suffix)) = (has_endpoint, account, suffix) {
        found.push((Key::Endpoint, format!("{protocol}://{account}.blob.{suffix}")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_are_read_as_the_portal_writes_them() {
        let text =
            "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=b+/=;EndpointSuffix=core.x";
        let found = parse(text).unwrap();
        assert_eq!(
            found,
            [
                (Key::AccountName, "a".into()),
                (Key::AccessKey, "b+/=".into()),
                (Key::Endpoint, "https://a.blob.core.x".into()),
            ]
        );
        let found =
            parse("BlobEndpoint=http://h:1/a;SharedAccessSignature=sv=1&sig=x%3D;QueueEndpoint=q;")
                .unwrap();
        assert_eq!(
            found,
            [(Key::Endpoint, "http://h:1/a".into()), (Key::SasKey, "sv=1&sig=x%3D".into())]
        );
        let error = parse("secret").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
