//! qom

use super::value::Any;

types! {
    /// `ObjectPropertyInfo`.
    struct ObjectPropertyInfo<'a> {
        name: &'a str,
        kind as "type": &'a str,
    }

    /// `ObjectTypeInfo`.
    struct ObjectTypeInfo<'a> {
        name: &'a str,
    }

    /// `DevicePropertyInfo`.
    struct DevicePropertyInfo<'a> {
        name: &'a str,
        kind as "type": &'a str,
        description: Option<&'a str>,
    }
}

commands! {
    /// `qom-list`.
    QOM_LIST = "qom-list"(QomListArgs<'a> {
        path: &'a str,
    }) -> [ObjectPropertyInfo];

    /// `qom-get`.
    QOM_GET = "qom-get"(QomGetArgs<'a> {
        path: &'a str,
        property: &'a str,
    }) -> Any<'static>;

    /// `qom-set`.
    QOM_SET = "qom-set"(QomSetArgs<'a> {
        path: &'a str,
        property: &'a str,
        value: Any<'a>,
    });

    /// `qom-list-types`.
    QOM_LIST_TYPES = "qom-list-types"(QomListTypesArgs<'a> {
        implements: Option<&'a str>,
        is_abstract as "abstract": Option<bool>,
    }) -> [ObjectTypeInfo];

    /// `device-list-properties`.
    DEVICE_LIST_PROPERTIES = "device-list-properties"(DeviceListPropertiesArgs<'a> {
        typename: &'a str,
    }) -> [DevicePropertyInfo];

    /// `device_add`.
    DEVICE_ADD = "device_add" free(DeviceAddArgs<'a> {
        driver: &'a str,
        id: &'a str,
    });

    /// `device_del`.
    DEVICE_DEL = "device_del"(DeviceDelArgs<'a> {
        id: &'a str,
    });

    /// `object-add`.
    OBJECT_ADD = "object-add"(ObjectAddArgs<'a> {
        qom_type as "qom-type": &'a str,
        id: &'a str,
        props: Option<Any<'a>>,
    });

    /// `object-del`.
    OBJECT_DEL = "object-del"(ObjectDelArgs<'a> {
        id: &'a str,
    });
}

events! {
    /// `DEVICE_DELETED`.
    DEVICE_DELETED = DeviceDeleted<'a> {
        device: Option<&'a str>,
        path: &'a str,
    };
}
