/*
 * How many P-256 signatures a second a PKCS#11 token makes when nothing stands in front of it:
 * the measure that `make bench` relates every other rate to.
 *
 *     raw_sign MODULE TOKEN_LABEL PIN_FILE SECONDS
 *
 * Logs in, finds or makes the key pair `bench-raw`, signs 32-byte digests in one thread for SECONDS,
 * and prints {"signatures": N, "seconds": S}. Exit: 0 done, 1 the token refused, 2 wrong usage.
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
    CKO_PRIVATE_KEY = 3,
    CKA_CLASS = 0,
    CKA_TOKEN = 1,
    CKA_PRIVATE = 2,
    CKA_LABEL = 3,
    CKA_SENSITIVE = 0x103,
    CKA_SIGN = 0x108,
    CKA_VERIFY = 0x10a,
    CKA_EXTRACTABLE = 0x162,
    CKA_EC_PARAMS = 0x180,
    CKM_EC_KEY_PAIR_GEN = 0x1040,
    CKM_ECDSA = 0x1041,
    MAX_SLOTS = 256,
    SIGNATURE_SIZE = 64
};

/* Places in CK_FUNCTION_LIST (PKCS#11 2.40, pkcs11f.h): the order is the interface. */
enum place {
    INITIALIZE = 0,
    FINALIZE = 1,
    GET_SLOT_LIST = 4,
    GET_TOKEN_INFO = 6,
    OPEN_SESSION = 12,
    LOGIN = 18,
    FIND_OBJECTS_INIT = 26,
    FIND_OBJECTS = 27,
    FIND_OBJECTS_FINAL = 28,
    SIGN_INIT = 42,
    SIGN = 43,
    GENERATE_KEY_PAIR = 59,
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
typedef ck_ulong sign_init_fn(ck_ulong, struct ck_mechanism *, ck_ulong);
typedef ck_ulong sign_fn(ck_ulong, ck_byte *, ck_ulong, ck_byte *, ck_ulong *);
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

static char key_name[] = "bench-raw";

static ck_ulong find_key(ck_ulong session)
{
    ck_ulong class = CKO_PRIVATE_KEY, key = 0, found = 0;
    struct ck_attribute wanted[] = {
        {CKA_CLASS, &class, sizeof class},
        {CKA_LABEL, key_name, sizeof key_name - 1},
    };
    check("C_FindObjectsInit", CALL(find_objects_init_fn, FIND_OBJECTS_INIT)(session, wanted, 2));
    check("C_FindObjects", CALL(find_objects_fn, FIND_OBJECTS)(session, &key, 1, &found));
    check("C_FindObjectsFinal", CALL(find_objects_final_fn, FIND_OBJECTS_FINAL)(session));
    return found == 1 ? key : 0;
}

static ck_ulong make_key(ck_ulong session)
{
    ck_byte p256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}; /* OID, DER */
    ck_byte yes = 1, no = 0;
    ck_ulong public_key, private_key;
    struct ck_attribute public_half[] = {
        {CKA_TOKEN, &yes, 1},
        {CKA_VERIFY, &yes, 1},
        {CKA_LABEL, key_name, sizeof key_name - 1},
        {CKA_EC_PARAMS, p256, sizeof p256},
    };
    struct ck_attribute private_half[] = {
        {CKA_TOKEN, &yes, 1},
        {CKA_PRIVATE, &yes, 1},
        {CKA_SENSITIVE, &yes, 1},
        {CKA_EXTRACTABLE, &no, 1},
        {CKA_SIGN, &yes, 1},
        {CKA_LABEL, key_name, sizeof key_name - 1},
    };
    struct ck_mechanism generation = {CKM_EC_KEY_PAIR_GEN, NULL, 0};
    check("C_GenerateKeyPair", CALL(generate_key_pair_fn, GENERATE_KEY_PAIR)(
                                   session, &generation, public_half, 4, private_half, 6,
                                   &public_key, &private_key));
    return private_key;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void sign(ck_ulong session, ck_ulong key, unsigned long number)
{
    struct ck_mechanism ecdsa = {CKM_ECDSA, NULL, 0};
    ck_byte digest[32] = {0}, signature[SIGNATURE_SIZE];
    ck_ulong size = sizeof signature;
    memcpy(digest, &number, sizeof number);
    check("C_SignInit", CALL(sign_init_fn, SIGN_INIT)(session, &ecdsa, key));
    check("C_Sign", CALL(sign_fn, SIGN)(session, digest, sizeof digest, signature, &size));
}

int main(int argc, char **argv)
{
    double seconds = argc == 5 ? atof(argv[4]) : 0;
    if (seconds <= 0 || seconds > 60) {
        fprintf(stderr, "usage: raw_sign MODULE TOKEN_LABEL PIN_FILE SECONDS (at most 60)\n");
        return 2;
    }
    load(argv[1]);
    ck_ulong session = open_session(argv[2]);
    log_in(session, argv[3]);
    ck_ulong key = find_key(session);
    if (key == 0)
        key = make_key(session);

    unsigned long signatures = 0;
    double start = now(), end = start + seconds, time = start;
    for (; time < end; time = now())
        sign(session, key, ++signatures);
    printf("{\"signatures\": %lu, \"seconds\": %.6f}\n", signatures, time - start);
    CALL(finalize_fn, FINALIZE)(NULL);
    return 0;
}
