//! Structs whose fields are settings. A setting is one row: the loader, the check of names, the documentation and the help
//! come from it.

use std::any::Any;
use std::sync::Arc;

use super::{Reader, Settings};
use crate::error::Result;

/// Defines a struct of settings: each field is a row, and its one line of documentation is the help. The fields `with` a
/// reader follow from the settings.
macro_rules! settings_table {
    (
        $(#[$meta:meta])*
        $vis:vis struct $Name:ident {
            $( #[doc = $help:literal] $field:ident: $type:ty = $setting:expr, )*
        }
        $( with $reader:ident {
            $( #[doc = $doc:literal] $other:ident: $other_type:ty = $value:expr, )*
        } )?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $vis struct $Name {
            $( #[doc = $help] pub $field: $type, )*
            $( $( #[doc = $doc] pub $other: $other_type, )* )?
        }

        impl $Name {
            /// Reads the settings.
            ///
            /// # Errors
            /// [`Error::Settings`](crate::error::Error::Settings) says which one is wrong.
            $vis fn read(reader: &$crate::settings::Reader<'_>) -> $crate::error::Result<Self> {
                $( let $field: $type = reader.read($setting.help($help))?; )*
                $( let $reader = reader; $( let $other: $other_type = $value; )* )?
                Ok(Self { $( $field, )* $( $( $other, )* )? })
            }
        }
    };
}
pub(crate) use settings_table;

/// The settings of a backend, for the loader, which knows no backend.
pub struct BackendSettings {
    /// The backend's name for people.
    pub title: &'static str,
    /// The setting that configures the backend. Unless it is set, the backend's variables do not count.
    pub switch: &'static str,
    /// Reads what the backend is made from; `None` if it is not configured.
    pub read: fn(&Reader<'_>, &Settings) -> Result<Option<Options>>,
}

/// What a backend is made from, of a type that only the backend knows.
pub type Options = Arc<dyn Any + Send + Sync>;

/// The options without their type.
pub fn as_options<T: Any + Send + Sync>(options: Option<T>) -> Option<Options> {
    options.map(|options| Arc::new(options) as Options)
}
