/* Connects to NAME at PORT and prints what the server sends. Built with musl, whose resolver reads
 * /etc/resolv.conf differently from glibc's. */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **words) {
    if (count != 3) {
        fprintf(stderr, "usage: dial NAME PORT\n");
        return 2;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(words[1], words[2], &hints, &found);
    if (error) {
        printf("no address: %s\n", gai_strerror(error));
        return 1;
    }
    int server = socket(found->ai_family, found->ai_socktype, 0);
    if (connect(server, found->ai_addr, found->ai_addrlen)) {
        printf("failed to connect: %s\n", strerror(errno));
        return 1;
    }
    char said[256];
    ssize_t length = read(server, said, sizeof said);
    if (length <= 0) {
        printf("said nothing: %s\n", length ? strerror(errno) : "it closed");
        return 1;
    }
    fwrite(said, 1, length, stdout);
    return 0;
}
