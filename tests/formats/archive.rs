//! Makes ZIP archives and pickles, right and wrong.

/// An entry to be stored. What is `Some` is written instead of what is true.
pub struct Stored {
    pub name: Vec<u8>,
    pub contents: Vec<u8>,
    pub method: u16,
    pub flags: u16,
    /// With its lengths and place in the 64-bit field.
    pub wide: bool,
    pub len: Option<u64>,
    pub compressed: Option<u64>,
    pub local_offset: Option<u64>,
    pub local_name: Option<Vec<u8>>,
    pub local_method: Option<u16>,
    /// The entry stands in the contents of the one before.
    pub inside_previous: bool,
}

impl Stored {
    pub fn new(name: &str, contents: &[u8]) -> Stored {
        Stored {
            name: name.as_bytes().to_vec(),
            contents: contents.to_vec(),
            method: 0,
            flags: 0,
            wide: false,
            len: None,
            compressed: None,
            local_offset: None,
            local_name: None,
            local_method: None,
            inside_previous: false,
        }
    }

    fn local(&self) -> Vec<u8> {
        let name = self.local_name.as_ref().unwrap_or(&self.name);
        let mut bytes = b"PK\x03\x04\x2d\0".to_vec();
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.local_method.unwrap_or(self.method).to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend((name.len() as u16).to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(name);
        bytes.extend(&self.contents);
        bytes
    }

    fn central(&self, offset: u64) -> Vec<u8> {
        let len = self.len.unwrap_or(self.contents.len() as u64);
        let values = [self.compressed.unwrap_or(len), len, self.local_offset.unwrap_or(offset)];
        let narrow = values.map(|v| if self.wide { u32::MAX } else { v as u32 });
        let mut extra = Vec::new();
        if self.wide {
            // A field of another kind comes first, as it may.
            extra.extend([0x55, 0x54, 2, 0, 7, 7, 1, 0, 24, 0]);
            [values[1], values[0], values[2]].iter().for_each(|v| extra.extend(v.to_le_bytes()));
        }
        let mut bytes = b"PK\x01\x02\x2d\0\x2d\0".to_vec();
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.method.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(narrow[0].to_le_bytes());
        bytes.extend(narrow[1].to_le_bytes());
        bytes.extend((self.name.len() as u16).to_le_bytes());
        bytes.extend((extra.len() as u16).to_le_bytes());
        bytes.extend([0; 10]);
        bytes.extend(narrow[2].to_le_bytes());
        bytes.extend(&self.name);
        bytes.extend(extra);
        bytes
    }
}

/// An archive of these entries, with a 64-bit end record where one of them is wide.
pub fn archive(entries: &[Stored]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut table = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let mut at = bytes.len() as u64;
        if entries.get(i + 1).is_some_and(|next| next.inside_previous) {
            let next = entries[i + 1].local();
            let outer = Stored { contents: next, name: entry.name.clone(), ..Stored::new("", b"") };
            bytes.extend(outer.local());
            table.extend(outer.central(at));
            continue;
        }
        if entry.inside_previous {
            at -= entry.local().len() as u64;
        } else {
            bytes.extend(entry.local());
        }
        table.extend(entry.central(at));
    }
    let offset = bytes.len() as u64;
    bytes.extend(&table);
    let wide = entries.iter().any(|e| e.wide);
    let count = entries.len() as u64;
    if wide {
        let at = bytes.len() as u64;
        bytes.extend(b"PK\x06\x06");
        bytes.extend(44u64.to_le_bytes());
        bytes.extend([0x2d, 0, 0x2d, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        [count, count, table.len() as u64, offset].iter().for_each(|v| bytes.extend(v.to_le_bytes()));
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend(at.to_le_bytes());
        bytes.extend([1, 0, 0, 0]);
    }
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    let count = if wide { u16::MAX } else { count as u16 };
    bytes.extend(count.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    let narrow = |v: u64| if wide { u32::MAX } else { v as u32 }.to_le_bytes();
    bytes.extend(narrow(table.len() as u64));
    bytes.extend(narrow(offset));
    bytes.extend([0; 2]);
    bytes
}

/// Parts of a pickle, as instructions: each tensor is `[2, 2]` of float32 in the storage `0`.
pub struct Pickle {
    pub class: Vec<u8>,
    pub key: String,
    pub count: Vec<u8>,
    pub offset: Vec<u8>,
    pub size: Vec<u8>,
    pub stride: Vec<u8>,
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A state dict whose tensors have these names, with something changed in them.
pub fn pickled(names: &[&str], change: impl Fn(&mut Pickle)) -> Vec<u8> {
    let mut parts = Pickle {
        class: b"ctorch\nFloatStorage\n".to_vec(),
        key: "0".to_owned(),
        count: b"K\x04".to_vec(),
        offset: b"K\0".to_vec(),
        size: b"K\x02K\x02\x86".to_vec(),
        stride: b"K\x02K\x01\x86".to_vec(),
    };
    change(&mut parts);
    let mut bytes = b"\x80\x02}(".to_vec();
    for name in names {
        bytes.extend(text(name));
        bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        bytes.extend(text("storage"));
        bytes.extend(&parts.class);
        bytes.extend(text(&parts.key));
        bytes.extend(text("cpu"));
        bytes.extend(&parts.count);
        bytes.extend(b"tQ");
        bytes.extend([&parts.offset[..], &parts.size, &parts.stride].concat());
        bytes.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    bytes.extend(b"u.");
    bytes
}

/// A file of PyTorch's with one storage.
pub fn pytorch(pickle: &[u8], data: &[u8]) -> Vec<u8> {
    archive(&[
        Stored::new("m/data.pkl", pickle),
        Stored::new("m/byteorder", b"little"),
        Stored::new("m/data/0", data),
    ])
}
