//! The object model: paths, properties, types, and devices plugged by name.

use super::value::Any;

types! {
    /// A property of an object.
    struct ObjectPropertyInfo<'a> {
        name: &'a str,
        /// `child<…>` and `link<…>` lead to other objects.
        kind as "type": &'a str,
    }

    /// A type of objects.
    struct ObjectTypeInfo<'a> {
        name: &'a str,
    }

    /// A property that devices of a type have.
    struct DevicePropertyInfo<'a> {
        name: &'a str,
        kind as "type": &'a str,
        description: Option<&'a str>,
    }
}

commands! {
    /// Lists the properties of an object.
    QOM_LIST = "qom-list"(QomListArgs<'a> {
        /// Absolute, or the end of a path that is unique.
        path: &'a str,
    }) -> [ObjectPropertyInfo];

    /// Reads a property of an object.
    QOM_GET = "qom-get"(QomGetArgs<'a> {
        path: &'a str,
        property: &'a str,
    }) -> Any<'static>;

    /// Writes a property of an object.
    QOM_SET = "qom-set"(QomSetArgs<'a> {
        path: &'a str,
        property: &'a str,
        value: Any<'a>,
    });

    /// Lists the types of objects.
    QOM_LIST_TYPES = "qom-list-types"(QomListTypesArgs<'a> {
        /// Only types that are of this one.
        implements: Option<&'a str>,
        /// Whether abstract types are listed too.
        is_abstract as "abstract": Option<bool>,
    }) -> [ObjectTypeInfo];

    /// Lists the properties that devices of a type have.
    DEVICE_LIST_PROPERTIES = "device-list-properties"(DeviceListPropertiesArgs<'a> {
        typename: &'a str,
    }) -> [DevicePropertyInfo];

    /// Plugs a device. Besides the members below it takes the properties of the device.
    DEVICE_ADD = "device_add" free(DeviceAddArgs<'a> {
        driver: &'a str,
        id: &'a str,
    });

    /// Asks the guest to let go of a device; DEVICE_DELETED tells when it is gone.
    DEVICE_DEL = "device_del"(DeviceDelArgs<'a> {
        /// An id, or a path in the object model.
        id: &'a str,
    });

    /// Makes an object.
    OBJECT_ADD = "object-add"(ObjectAddArgs<'a> {
        qom_type as "qom-type": &'a str,
        id: &'a str,
        /// Properties to set.
        props: Option<Any<'a>>,
    });

    /// Removes an object made by `object-add`.
    OBJECT_DEL = "object-del"(ObjectDelArgs<'a> {
        id: &'a str,
    });
}

events! {
    /// A device is gone; its id may be used again.
    DEVICE_DELETED = DeviceDeleted<'a> {
        /// Absent where it had no id.
        device: Option<&'a str>,
        path: &'a str,
    };
}
