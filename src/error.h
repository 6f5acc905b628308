/*-------------------------------------------------------------------------
 *
 * error.h
 *		The extension's SQLSTATEs, class IV.
 *
 * docs/errors.md explains each to users.  What PostgreSQL has a code for
 * (NULL arguments, overflow, read-only transactions) uses that one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_ERROR_H
#define INVENTORY_ERROR_H

#define IV(n) MAKE_SQLSTATE('I', 'V', '0', (n)[0], (n)[1])

#define ERRCODE_IV_INSUFFICIENT_STOCK	IV("01")
#define ERRCODE_IV_UNKNOWN_CODE			IV("02")
#define ERRCODE_IV_INACTIVE_CODE		IV("03")
#define ERRCODE_IV_LOT_MISMATCH			IV("04")
#define ERRCODE_IV_LOT_BLOCKED			IV("05")
#define ERRCODE_IV_LOT_EXPIRED			IV("06")
#define ERRCODE_IV_UNKNOWN_RESERVATION	IV("07")
#define ERRCODE_IV_RESERVATION_EXPIRED	IV("08")
#define ERRCODE_IV_WRONG_STATE			IV("09")
#define ERRCODE_IV_REQUEST_MISMATCH		IV("10")
#define ERRCODE_IV_INVALID_QUANTITY		IV("11")
#define ERRCODE_IV_ON_HAND_MISMATCH		IV("12")
#define ERRCODE_IV_UNKNOWN_EVENT		IV("13")
#define ERRCODE_IV_NOT_REVERSIBLE		IV("14")
#define ERRCODE_IV_INVALID_LINES		IV("15")
#define ERRCODE_IV_ENGINE_ONLY			IV("16")
#define ERRCODE_IV_CONDITION			IV("17")
#define ERRCODE_IV_LEVELS_FULL			IV("18")
#define ERRCODE_IV_INVALID_TTL			IV("19")
#define ERRCODE_IV_INVALID_CHOICE		IV("20")
#define ERRCODE_IV_EVENTS_WOULD_BE_LOST	IV("21")
#define ERRCODE_IV_INVALID_MESSAGE		IV("23")
#define ERRCODE_IV_UNKNOWN_SUBSCRIPTION	IV("24")
#define ERRCODE_IV_INVALID_SUBSCRIPTION	IV("25")
#define ERRCODE_IV_UNKNOWN_COMMAND		IV("26")
#define ERRCODE_IV_COMMAND_FINISHED		IV("27")
#define ERRCODE_IV_MESSAGE_REFUSED		IV("28")
#define ERRCODE_IV_UNKNOWN_PARKED		IV("29")
#define ERRCODE_IV_DEADLINE_PASSED		IV("30")
#define ERRCODE_IV_COMMAND_TOO_OLD		IV("31")

#endif							/* INVENTORY_ERROR_H */
