/*
 * A PKCS#11 module that stands before another one and fails as it is told.
 *
 *     FAULTY_PKCS11_MODULE   the module behind it, which everything is passed on to
 *     FAULTY_PKCS11_ORDERS   a file with one order, read at each call of a watched function:
 *
 *     FUNCTION fail CODE [TIMES]      answer this return code (hexadecimal) instead of calling
 *     FUNCTION broken CODE            the same until C_Finalize is called: a library that must be
 *                                     loaded afresh
 *     FUNCTION hang                   never return
 *     FUNCTION crash                  reach for memory that is not there
 *     FUNCTION delay MILLISECONDS     wait, then call
 *     C_Sign corrupt MASK [TIMES]     call, then change a byte in the middle of the signature
 *
 * `*` stands for every watched function. TIMES counts from when the order is first seen; without it,
 * an order holds for as long as the file says so. Without the file, nothing is changed.
 *
 * The declarations are those few of PKCS#11 2.40 that are needed, in its Unix layout.
 */

#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long ck_ulong;
typedef unsigned char ck_byte;

enum { CKR_GENERAL_ERROR = 0x05 };

/* Places in CK_FUNCTION_LIST (PKCS#11 2.40, pkcs11f.h): the order is the interface. */
enum place {
    INITIALIZE = 0,
    FINALIZE = 1,
    GET_FUNCTION_LIST = 3,
    GET_SLOT_LIST = 4,
    OPEN_SESSION = 12,
    LOGIN = 18,
    GET_ATTRIBUTE_VALUE = 24,
    FIND_OBJECTS_INIT = 26,
    SIGN_INIT = 42,
    SIGN = 43,
    GENERATE_KEY_PAIR = 59,
    GENERATE_RANDOM = 64,
    PLACES = 68
};

struct ck_function_list {
    struct { ck_byte major, minor; } version;
    void (*function[PLACES])(void);
};

typedef ck_ulong get_function_list_fn(struct ck_function_list **);

static struct ck_function_list *behind;
static struct ck_function_list offered;

/* The order as last read, how often it was followed, and whether C_Finalize has ended it. */
static char current[256];
static ck_ulong followed;
static int spent;

struct order {
    char function[64], action[16];
    ck_ulong value, times;
};

static int read_order(struct order *order)
{
    char text[sizeof current] = "";
    const char *path = getenv("FAULTY_PKCS11_ORDERS");
    FILE *file = path == NULL ? NULL : fopen(path, "r");
    if (file != NULL) {
        if (fgets(text, sizeof text, file) == NULL)
            text[0] = '\0';
        fclose(file);
    }
    if (strcmp(text, current) != 0) {
        strcpy(current, text);
        followed = 0;
        spent = 0;
    }
    memset(order, 0, sizeof *order);
    int base = strstr(text, " delay ") == NULL ? 16 : 10;
    char value[32] = "0";
    int fields = sscanf(text, "%63s %15s %31s %lu", order->function, order->action, value, &order->times);
    order->value = strtoul(value, NULL, base);
    return fields >= 2 && !spent;
}

/* Whether the order is about this call; counts it. */
static int ordered(const char *function, const struct order *order)
{
    if (strcmp(order->function, "*") != 0 && strcmp(order->function, function) != 0)
        return 0;
    if (order->times != 0 && followed >= order->times)
        return 0;
    followed++;
    return 1;
}

static void wait_milliseconds(ck_ulong milliseconds)
{
    struct timespec left = {(time_t)(milliseconds / 1000), (long)(milliseconds % 1000) * 1000000L};
    while (nanosleep(&left, &left) != 0)
        ;
}

/* Do what is ordered before a call; 1 and a code where the call is not to be made. */
static int stopped(const char *function, ck_ulong *code)
{
    struct order order;
    if (!read_order(&order) || strcmp(order.action, "corrupt") == 0 || !ordered(function, &order))
        return 0;
    if (strcmp(order.action, "hang") == 0)
        for (;;)
            pause();
    if (strcmp(order.action, "crash") == 0)
        raise(SIGSEGV);
    if (strcmp(order.action, "delay") == 0)
        wait_milliseconds(order.value);
    *code = order.value;
    return strcmp(order.action, "fail") == 0 || strcmp(order.action, "broken") == 0;
}

#define PASSED_ON(name, watched, place, parameters, arguments)                             \
    static ck_ulong name parameters                                                        \
    {                                                                                      \
        ck_ulong code;                                                                     \
        if (stopped(watched, &code))                                                       \
            return code;                                                                   \
        return ((ck_ulong(*) parameters)behind->function[place]) arguments;                \
    }
#define WATCHED(name, place, parameters, arguments) \
    PASSED_ON(name, #name, place, parameters, arguments)

WATCHED(C_Initialize, INITIALIZE, (void *options), (options))
WATCHED(C_GetSlotList, GET_SLOT_LIST, (ck_byte present, ck_ulong *slots, ck_ulong *count),
        (present, slots, count))
WATCHED(C_OpenSession, OPEN_SESSION,
        (ck_ulong slot, ck_ulong flags, void *application, void *notify, ck_ulong *session),
        (slot, flags, application, notify, session))
WATCHED(C_Login, LOGIN, (ck_ulong session, ck_ulong user, ck_byte *pin, ck_ulong size),
        (session, user, pin, size))
WATCHED(C_GetAttributeValue, GET_ATTRIBUTE_VALUE,
        (ck_ulong session, ck_ulong object, void *attributes, ck_ulong count),
        (session, object, attributes, count))
WATCHED(C_FindObjectsInit, FIND_OBJECTS_INIT, (ck_ulong session, void *attributes, ck_ulong count),
        (session, attributes, count))
WATCHED(C_SignInit, SIGN_INIT, (ck_ulong session, void *mechanism, ck_ulong key),
        (session, mechanism, key))
WATCHED(C_GenerateKeyPair, GENERATE_KEY_PAIR,
        (ck_ulong session, void *mechanism, void *public_attributes, ck_ulong public_count,
         void *private_attributes, ck_ulong private_count, ck_ulong *public_key, ck_ulong *private_key),
        (session, mechanism, public_attributes, public_count, private_attributes, private_count,
         public_key, private_key))
WATCHED(C_GenerateRandom, GENERATE_RANDOM, (ck_ulong session, ck_byte *data, ck_ulong size),
        (session, data, size))
PASSED_ON(sign, "C_Sign", SIGN,
        (ck_ulong session, ck_byte *data, ck_ulong size, ck_byte *signature, ck_ulong *signature_size),
        (session, data, size, signature, signature_size))

static ck_ulong C_Sign(ck_ulong session, ck_byte *data, ck_ulong size, ck_byte *signature,
                       ck_ulong *signature_size)
{
    struct order order;
    ck_ulong code = sign(session, data, size, signature, signature_size);
    if (code == 0 && signature != NULL && read_order(&order) && strcmp(order.action, "corrupt") == 0
        && ordered("C_Sign", &order))
        signature[*signature_size / 2] ^= (ck_byte)order.value;
    return code;
}

static ck_ulong C_Finalize(void *reserved)
{
    struct order order;
    if (read_order(&order) && strcmp(order.action, "broken") == 0)
        spent = 1;
    return ((ck_ulong(*)(void *))behind->function[FINALIZE])(reserved);
}

static ck_ulong load(void)
{
    const char *path = getenv("FAULTY_PKCS11_MODULE");
    void *library = path == NULL ? NULL : dlopen(path, RTLD_NOW);
    get_function_list_fn *get_list = NULL;
    if (library != NULL)
        *(void **)&get_list = dlsym(library, "C_GetFunctionList");
    return get_list == NULL ? CKR_GENERAL_ERROR : get_list(&behind);
}

#define OFFER(place, name) offered.function[place] = (void (*)(void))name

ck_ulong C_GetFunctionList(struct ck_function_list **list)
{
    ck_ulong code = behind == NULL ? load() : 0;
    if (code != 0)
        return code;
    offered = *behind;
    OFFER(GET_FUNCTION_LIST, C_GetFunctionList);
    OFFER(INITIALIZE, C_Initialize);
    OFFER(FINALIZE, C_Finalize);
    OFFER(GET_SLOT_LIST, C_GetSlotList);
    OFFER(OPEN_SESSION, C_OpenSession);
    OFFER(LOGIN, C_Login);
    OFFER(GET_ATTRIBUTE_VALUE, C_GetAttributeValue);
    OFFER(FIND_OBJECTS_INIT, C_FindObjectsInit);
    OFFER(SIGN_INIT, C_SignInit);
    OFFER(SIGN, C_Sign);
    OFFER(GENERATE_KEY_PAIR, C_GenerateKeyPair);
    OFFER(GENERATE_RANDOM, C_GenerateRandom);
    *list = &offered;
    return 0;
}
