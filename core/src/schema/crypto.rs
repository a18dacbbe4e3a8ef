//! Encryption of images.

use super::value::List;

types! {
    /// Hashes.
    enum QCryptoHashAlgorithm {
        Md5 = "md5",
        Sha1 = "sha1",
        Sha224 = "sha224",
        Sha256 = "sha256",
        Sha384 = "sha384",
        Sha512 = "sha512",
        Ripemd160 = "ripemd160",
    }

    /// Ciphers.
    enum QCryptoCipherAlgorithm {
        Aes128 = "aes-128",
        Aes192 = "aes-192",
        Aes256 = "aes-256",
        DesRfb = "des-rfb",
        Cast5128 = "cast5-128",
        Serpent128 = "serpent-128",
        Serpent192 = "serpent-192",
        Serpent256 = "serpent-256",
        Twofish128 = "twofish-128",
        Twofish192 = "twofish-192",
        Twofish256 = "twofish-256",
    }

    /// Modes of ciphers.
    enum QCryptoCipherMode {
        Ecb = "ecb",
        Cbc = "cbc",
        Xts = "xts",
        Ctr = "ctr",
    }

    /// How initialisation vectors are made.
    enum QCryptoIVGenAlgorithm {
        Plain = "plain",
        Plain64 = "plain64",
        Essiv = "essiv",
    }

    /// A key slot.
    struct QCryptoBlockInfoLUKSSlot {
        active: bool,
        iters: Option<i64>,
        stripes: Option<i64>,
        key_offset as "key-offset": i64,
    }

    /// What LUKS adds.
    struct QCryptoBlockInfoLUKS<'a> {
        cipher_alg as "cipher-alg": QCryptoCipherAlgorithm,
        cipher_mode as "cipher-mode": QCryptoCipherMode,
        ivgen_alg as "ivgen-alg": QCryptoIVGenAlgorithm,
        ivgen_hash_alg as "ivgen-hash-alg": Option<QCryptoHashAlgorithm>,
        hash_alg as "hash-alg": QCryptoHashAlgorithm,
        payload_offset as "payload-offset": i64,
        master_key_iters as "master-key-iters": i64,
        uuid: &'a str,
        slots: List<'a, QCryptoBlockInfoLUKSSlot>,
    }
}

commands! {}

events! {}
