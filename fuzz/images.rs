//! What the targets about images do with their bytes; apart from bodies.rs, since another crate replays them.

/// What is between two parts of one input: no byte of a tar header or a JSON document.
const BETWEEN: &[u8] = b"\xff--\xff";

/// The first byte says how the layers are packed, the rest is the layers.
pub(crate) fn image_layer(data: &[u8]) {
    let Some((packing, data)) = data.split_first() else { return };
    drop(jail_init::image::trial::layers(parts(data).into_iter(), *packing));
}

/// Index, manifest and configuration.
pub(crate) fn image_documents(data: &[u8]) {
    let parts = parts(data);
    let part = |n: usize| parts.get(n).copied().unwrap_or_default();
    std::hint::black_box(jail_init::image::trial::documents(part(0), part(1), part(2)));
}

pub(crate) fn parts(mut data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some(at) = data.windows(BETWEEN.len()).position(|window| window == BETWEEN) {
        parts.push(&data[..at]);
        data = &data[at + BETWEEN.len()..];
    }
    parts.push(data);
    parts
}
