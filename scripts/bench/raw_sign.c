/*
 * How many operations a second a PKCS#11 token makes when nothing stands in front of it: the measure
 * that `make bench` relates every other rate to.
 *
 *     raw_sign MODULE TOKEN_LABEL PIN_FILE SECONDS [ecdsa|hmac|gcm|x25519 [SIZE]]
 *
 * Logs in, finds or makes the key `bench-raw` (for others than P-256: `bench-raw-NAME`), and in one
 * thread for SECONDS signs 32-byte digests, makes HMAC-SHA-256 of messages of SIZE bytes (1024),
 * encrypts as many with AES-256-GCM, or derives secrets from a point of X25519, reads and destroys
 * them. Prints {"signatures": N, "seconds": S}: N counts what was asked for. Exit: 0 done, 1 the
 * token refused, 2 wrong usage.
 *
 * The declarations below are those few of PKCS#11 2.40 that are needed, in its Unix layout: natural
 * alignment, CK_ULONG an unsigned long.
 */

#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long ck_ulong;
typedef unsigned char ck_byte;

struct ck_version { ck_byte major, minor; };
struct ck_mechanism { ck_ulong mechanism; void *parameter; ck_ulong parameter_len; };
struct ck_attribute { ck_ulong type; void *value; ck_ulong value_len; };
struct ck_gcm_params {
    ck_byte *iv;
    ck_ulong iv_len, iv_bits;
    ck_byte *aad;
    ck_ulong aad_len, tag_bits;
};
struct ck_ecdh1_derive_params {
    ck_ulong kdf, shared_len;
    ck_byte *shared;
    ck_ulong public_len;
    ck_byte *public_data;
};
struct ck_initialize_args { void *create, *destroy, *lock, *unlock; ck_ulong flags; void *reserved; };
struct ck_token_info {
    ck_byte label[32], manufacturer[32], model[16], serial[16];
    ck_ulong flags, counts[10];
    struct ck_version hardware, firmware;
    ck_byte utc_time[16];
};

enum {
    CKF_OS_LOCKING_OK = 2,
    CKF_RW_SESSION = 2,
    CKF_SERIAL_SESSION = 4,
    CKU_USER = 1,
    CKD_NULL = 1,
    CKO_PRIVATE_KEY = 3,
    CKO_SECRET_KEY = 4,
    CKA_CLASS = 0,
    CKA_TOKEN = 1,
    CKA_PRIVATE = 2,
    CKA_LABEL = 3,
    CKA_VALUE = 0x11,
    CKA_KEY_TYPE = 0x100,
    CKA_SENSITIVE = 0x103,
    CKA_ENCRYPT = 0x104,
    CKA_SIGN = 0x108,
    CKA_VERIFY = 0x10a,
    CKA_DERIVE = 0x10c,
    CKA_VALUE_LEN = 0x161,
    CKA_EXTRACTABLE = 0x162,
    CKA_EC_PARAMS = 0x180,
    CKK_GENERIC_SECRET = 0x10,
    CKK_AES = 0x1f,
    CKM_SHA256_HMAC = 0x251,
    CKM_GENERIC_SECRET_KEY_GEN = 0x350,
    CKM_EC_KEY_PAIR_GEN = 0x1040,
    CKM_ECDSA = 0x1041,
    CKM_ECDH1_DERIVE = 0x1050,
    CKM_EC_EDWARDS_KEY_PAIR_GEN = 0x1055,
    CKM_AES_KEY_GEN = 0x1080,
    CKM_AES_GCM = 0x1087,
    MAX_SLOTS = 256,
    MAX_MESSAGE = 65536,
    TAG_SIZE = 16
};

/* Places in CK_FUNCTION_LIST (PKCS#11 2.40, pkcs11f.h): the order is the interface. */
enum place {
    INITIALIZE = 0,
    FINALIZE = 1,
    GET_SLOT_LIST = 4,
    GET_TOKEN_INFO = 6,
    OPEN_SESSION = 12,
    LOGIN = 18,
    DESTROY_OBJECT = 22,
    GET_ATTRIBUTE_VALUE = 24,
    FIND_OBJECTS_INIT = 26,
    FIND_OBJECTS = 27,
    FIND_OBJECTS_FINAL = 28,
    ENCRYPT_INIT = 29,
    ENCRYPT = 30,
    SIGN_INIT = 42,
    SIGN = 43,
    GENERATE_KEY = 58,
    GENERATE_KEY_PAIR = 59,
    DERIVE_KEY = 62,
    PLACES = 68
};

struct ck_function_list {
    struct ck_version version;
    void (*function[PLACES])(void);
};

typedef ck_ulong get_function_list_fn(struct ck_function_list **);
typedef ck_ulong initialize_fn(struct ck_initialize_args *);
typedef ck_ulong finalize_fn(void *);
typedef ck_ulong get_slot_list_fn(ck_byte, ck_ulong *, ck_ulong *);
typedef ck_ulong get_token_info_fn(ck_ulong, struct ck_token_info *);
typedef ck_ulong open_session_fn(ck_ulong, ck_ulong, void *, void *, ck_ulong *);
typedef ck_ulong login_fn(ck_ulong, ck_ulong, ck_byte *, ck_ulong);
typedef ck_ulong find_objects_init_fn(ck_ulong, struct ck_attribute *, ck_ulong);
typedef ck_ulong find_objects_fn(ck_ulong, ck_ulong *, ck_ulong, ck_ulong *);
typedef ck_ulong find_objects_final_fn(ck_ulong);
typedef ck_ulong begin_fn(ck_ulong, struct ck_mechanism *, ck_ulong);
typedef ck_ulong finish_fn(ck_ulong, ck_byte *, ck_ulong, ck_byte *, ck_ulong *);
typedef ck_ulong destroy_object_fn(ck_ulong, ck_ulong);
typedef ck_ulong get_attribute_value_fn(ck_ulong, ck_ulong, struct ck_attribute *, ck_ulong);
typedef ck_ulong generate_key_fn(ck_ulong, struct ck_mechanism *, struct ck_attribute *, ck_ulong,
                                 ck_ulong *);
typedef ck_ulong derive_key_fn(ck_ulong, struct ck_mechanism *, ck_ulong, struct ck_attribute *,
                               ck_ulong, ck_ulong *);
typedef ck_ulong generate_key_pair_fn(ck_ulong, struct ck_mechanism *, struct ck_attribute *, ck_ulong,
                                      struct ck_attribute *, ck_ulong, ck_ulong *, ck_ulong *);

static struct ck_function_list *token;
#define CALL(type, place) ((type *)token->function[place])

static void check(const char *what, ck_ulong code)
{
    if (code != 0) {
        fprintf(stderr, "raw_sign: %s failed with PKCS#11 code 0x%lx\n", what, code);
        exit(1);
    }
}

static void load(const char *module)
{
    void *library = dlopen(module, RTLD_NOW);
    get_function_list_fn *get_list = NULL;
    if (library != NULL)
        *(void **)&get_list = dlsym(library, "C_GetFunctionList");
    if (get_list == NULL) {
        fprintf(stderr, "raw_sign: %s is no PKCS#11 module: %s\n", module, dlerror());
        exit(1);
    }
    check("C_GetFunctionList", get_list(&token));
    struct ck_initialize_args args = {.flags = CKF_OS_LOCKING_OK};
    check("C_Initialize", CALL(initialize_fn, INITIALIZE)(&args));
}

static int has_label(ck_ulong slot, const char *label)
{
    struct ck_token_info info;
    ck_byte padded[32];
    memset(padded, ' ', sizeof padded);
    memcpy(padded, label, strnlen(label, sizeof padded));
    return CALL(get_token_info_fn, GET_TOKEN_INFO)(slot, &info) == 0 &&
           memcmp(info.label, padded, sizeof padded) == 0;
}

static ck_ulong open_session(const char *label)
{
    ck_ulong slots[MAX_SLOTS], count = MAX_SLOTS, session;
    check("C_GetSlotList", CALL(get_slot_list_fn, GET_SLOT_LIST)(1, slots, &count));
    for (ck_ulong i = 0; i < count; i++) {
        if (!has_label(slots[i], label))
            continue;
        ck_ulong flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
        check("C_OpenSession",
              CALL(open_session_fn, OPEN_SESSION)(slots[i], flags, NULL, NULL, &session));
        return session;
    }
    fprintf(stderr, "raw_sign: no token is labelled %s\n", label);
    exit(1);
}

static void log_in(ck_ulong session, const char *pin_file)
{
    char pin[257] = {0};
    FILE *file = fopen(pin_file, "r");
    if (file == NULL || fgets(pin, sizeof pin, file) == NULL) {
        fprintf(stderr, "raw_sign: %s holds no PIN that can be read\n", pin_file);
        exit(1);
    }
    fclose(file);
    ck_ulong code =
        CALL(login_fn, LOGIN)(session, CKU_USER, (ck_byte *)pin, strcspn(pin, "\r\n"));
    memset(pin, 0, sizeof pin);
    check("C_Login", code);
}

static char key_name[32] = "bench-raw";
static ck_byte yes = 1, no = 0;
static ck_byte message[MAX_MESSAGE], answer[MAX_MESSAGE + TAG_SIZE];
static ck_ulong message_size = 1024;

static ck_ulong find_key(ck_ulong session, ck_ulong class)
{
    ck_ulong key = 0, found = 0;
    struct ck_attribute wanted[] = {
        {CKA_CLASS, &class, sizeof class},
        {CKA_LABEL, key_name, strlen(key_name)},
    };
    check("C_FindObjectsInit", CALL(find_objects_init_fn, FIND_OBJECTS_INIT)(session, wanted, 2));
    check("C_FindObjects", CALL(find_objects_fn, FIND_OBJECTS)(session, &key, 1, &found));
    check("C_FindObjectsFinal", CALL(find_objects_final_fn, FIND_OBJECTS_FINAL)(session));
    return found == 1 ? key : 0;
}

/* A key that stays on the token and does one thing. */
static ck_ulong make_pair(ck_ulong session, ck_ulong mechanism, ck_ulong does, ck_byte *curve,
                          ck_ulong curve_size)
{
    ck_ulong public_key, private_key;
    struct ck_attribute public_half[] = {
        {CKA_TOKEN, &yes, 1},
        {CKA_VERIFY, does == CKA_SIGN ? &yes : &no, 1},
        {CKA_LABEL, key_name, strlen(key_name)},
        {CKA_EC_PARAMS, curve, curve_size},
    };
    struct ck_attribute private_half[] = {
        {CKA_TOKEN, &yes, 1},     {CKA_PRIVATE, &yes, 1},
        {CKA_SENSITIVE, &yes, 1}, {CKA_EXTRACTABLE, &no, 1},
        {does, &yes, 1},          {CKA_LABEL, key_name, strlen(key_name)},
    };
    struct ck_mechanism generation = {mechanism, NULL, 0};
    check("C_GenerateKeyPair", CALL(generate_key_pair_fn, GENERATE_KEY_PAIR)(
                                   session, &generation, public_half, 4, private_half, 6,
                                   &public_key, &private_key));
    return private_key;
}

static ck_ulong make_secret(ck_ulong session, ck_ulong mechanism, ck_ulong type, ck_ulong does)
{
    ck_ulong class = CKO_SECRET_KEY, size = 32, key;
    struct ck_attribute wanted[] = {
        {CKA_CLASS, &class, sizeof class},
        {CKA_KEY_TYPE, &type, sizeof type},
        {CKA_VALUE_LEN, &size, sizeof size},
        {CKA_TOKEN, &yes, 1},
        {CKA_PRIVATE, &yes, 1},
        {CKA_SENSITIVE, &yes, 1},
        {CKA_EXTRACTABLE, &no, 1},
        {does, &yes, 1},
        {CKA_LABEL, key_name, strlen(key_name)},
    };
    struct ck_mechanism generation = {mechanism, NULL, 0};
    check("C_GenerateKey",
          CALL(generate_key_fn, GENERATE_KEY)(session, &generation, wanted, 9, &key));
    return key;
}

static ck_ulong make_ecdsa(ck_ulong session)
{
    ck_byte p256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}; /* OID, DER */
    return make_pair(session, CKM_EC_KEY_PAIR_GEN, CKA_SIGN, p256, sizeof p256);
}

static ck_ulong make_x25519(ck_ulong session)
{
    ck_byte x25519[] = {0x06, 0x03, 0x2b, 0x65, 0x6e};
    return make_pair(session, CKM_EC_EDWARDS_KEY_PAIR_GEN, CKA_DERIVE, x25519, sizeof x25519);
}

static ck_ulong make_hmac(ck_ulong session)
{
    return make_secret(session, CKM_GENERIC_SECRET_KEY_GEN, CKK_GENERIC_SECRET, CKA_SIGN);
}

static ck_ulong make_gcm(ck_ulong session)
{
    return make_secret(session, CKM_AES_KEY_GEN, CKK_AES, CKA_ENCRYPT);
}

static void sign(ck_ulong session, ck_ulong key, ck_ulong mechanism, ck_ulong size)
{
    struct ck_mechanism how = {mechanism, NULL, 0};
    ck_ulong made = sizeof answer;
    check("C_SignInit", CALL(begin_fn, SIGN_INIT)(session, &how, key));
    check("C_Sign", CALL(finish_fn, SIGN)(session, message, size, answer, &made));
}

static void do_ecdsa(ck_ulong session, ck_ulong key) { sign(session, key, CKM_ECDSA, 32); }

static void do_hmac(ck_ulong session, ck_ulong key)
{
    sign(session, key, CKM_SHA256_HMAC, message_size);
}

static void do_gcm(ck_ulong session, ck_ulong key)
{
    struct ck_gcm_params gcm = {message, 12, 96, message, 16, 8 * TAG_SIZE};
    struct ck_mechanism how = {CKM_AES_GCM, &gcm, sizeof gcm};
    ck_ulong made = sizeof answer;
    check("C_EncryptInit", CALL(begin_fn, ENCRYPT_INIT)(session, &how, key));
    check("C_Encrypt", CALL(finish_fn, ENCRYPT)(session, message, message_size, answer, &made));
}

static void do_x25519(ck_ulong session, ck_ulong key)
{
    static ck_byte point[34] = {0x04, 0x20, 0x09}; /* the base point, as an OCTET STRING */
    ck_ulong class = CKO_SECRET_KEY, type = CKK_GENERIC_SECRET, size = 32, secret;
    struct ck_attribute wanted[] = {
        {CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type},
        {CKA_TOKEN, &no, 1},               {CKA_SENSITIVE, &no, 1},
        {CKA_EXTRACTABLE, &yes, 1},        {CKA_VALUE_LEN, &size, sizeof size},
    };
    struct ck_attribute value = {CKA_VALUE, answer, 32};
    struct ck_ecdh1_derive_params ecdh = {CKD_NULL, 0, NULL, sizeof point, point};
    struct ck_mechanism how = {CKM_ECDH1_DERIVE, &ecdh, sizeof ecdh};
    check("C_DeriveKey", CALL(derive_key_fn, DERIVE_KEY)(session, &how, key, wanted, 6, &secret));
    check("C_GetAttributeValue",
          CALL(get_attribute_value_fn, GET_ATTRIBUTE_VALUE)(session, secret, &value, 1));
    check("C_DestroyObject", CALL(destroy_object_fn, DESTROY_OBJECT)(session, secret));
}

static const struct operation {
    const char *name;
    ck_ulong class;
    ck_ulong (*make)(ck_ulong session);
    void (*run)(ck_ulong session, ck_ulong key);
} operations[] = {
    {"ecdsa", CKO_PRIVATE_KEY, make_ecdsa, do_ecdsa},
    {"hmac", CKO_SECRET_KEY, make_hmac, do_hmac},
    {"gcm", CKO_SECRET_KEY, make_gcm, do_gcm},
    {"x25519", CKO_PRIVATE_KEY, make_x25519, do_x25519},
};

static const struct operation *operation_called(const char *name)
{
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++)
        if (strcmp(operations[i].name, name) == 0)
            return &operations[i];
    return NULL;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    double seconds = argc >= 5 && argc <= 7 ? atof(argv[4]) : 0;
    const struct operation *operation = operation_called(argc > 5 ? argv[5] : "ecdsa");
    if (argc > 6)
        message_size = strtoul(argv[6], NULL, 10);
    if (seconds <= 0 || seconds > 60 || operation == NULL || message_size > MAX_MESSAGE) {
        fprintf(stderr, "usage: raw_sign MODULE TOKEN_LABEL PIN_FILE SECONDS (at most 60)"
                        " [ecdsa|hmac|gcm|x25519 [SIZE (at most 65536)]]\n");
        return 2;
    }
    if (argc > 5)
        snprintf(key_name, sizeof key_name, "bench-raw-%s", operation->name);
    load(argv[1]);
    ck_ulong session = open_session(argv[2]);
    log_in(session, argv[3]);
    ck_ulong key = find_key(session, operation->class);
    if (key == 0)
        key = operation->make(session);

    unsigned long done = 0;
    double start = now(), end = start + seconds, time = start;
    for (; time < end; time = now()) {
        memcpy(message, &done, sizeof done); /* no two alike */
        operation->run(session, key);
        done++;
    }
    printf("{\"signatures\": %lu, \"seconds\": %.6f}\n", done, time - start);
    CALL(finalize_fn, FINALIZE)(NULL);
    return 0;
}
