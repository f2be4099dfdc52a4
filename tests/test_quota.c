/* SPDX-License-Identifier: MIT */
/* C27: the CPU quota of the control groups, from files as Linux has them, under a folder of the test's own. */
#include "core/quota.h"
#include "scratch.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static const char *root; /* of the machine at hand */

static void begin(void)
{
    static int number;
    char name[32];
    snprintf(name, sizeof name, "machine%d", number++);
    static char kept[4096];
    snprintf(kept, sizeof kept, "%s", scratch_folder(name));
    root = kept;
}

/* Writes root/path, making the folders above it. */
static void put(const char *path, const char *text)
{
    char full[8192];
    const int length = snprintf(full, sizeof full, "%s%s", root, path);
    assert_true(length > 0 && (size_t)length < sizeof full);
    for (char *c = full + strlen(root) + 1; (c = strchr(c, '/')) != NULL; c++) {
        *c = 0;
        mkdir(full, 0777);
        *c = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void groups(const char *text)
{
    put("/proc/self/cgroup", text);
}

static void mounts(const char *text)
{
    put("/proc/self/mountinfo", text);
}

static const char version2[] =
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    "33 24 0:29 / /sys/fs/cgroup rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate\n";
static const char version1[] = "30 24 0:27 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
                               "31 24 0:28 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n"
                               "32 24 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpuacct,cpu\n";

static void test_C27_version_2_takes_the_least_over_all_groups_around(void **state)
{
    (void)state;
    begin();
    assert_int_equal(tn_cpu_quota(root), 0); /* no files at all */
    groups("0::/a/b/c\n");
    assert_int_equal(tn_cpu_quota(root), 0);
    mounts(version2);
    assert_int_equal(tn_cpu_quota(root), 0);
    put("/sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
    assert_int_equal(tn_cpu_quota(root), 0);
    put("/sys/fs/cgroup/a/cpu.max", "400000 100000\n");
    assert_int_equal(tn_cpu_quota(root), 4);
    put("/sys/fs/cgroup/a/b/cpu.max", "250000 100000\n");
    assert_int_equal(tn_cpu_quota(root), 3); /* 2.5, rounded up */
    put("/sys/fs/cgroup/a/b/c/cpu.max", "1000 100000\n");
    assert_int_equal(tn_cpu_quota(root), 1);
    put("/sys/fs/cgroup/a/b/c/cpu.max", "900000 100000\n");
    assert_int_equal(tn_cpu_quota(root), 3);
    put("/sys/fs/cgroup/cpu.max", "200000 100000\n"); /* the top of a container */
    assert_int_equal(tn_cpu_quota(root), 2);
    groups("0::/\n");
    assert_int_equal(tn_cpu_quota(root), 2);
    groups("0::/a/b/c/gone (deleted)\n");
    assert_int_equal(tn_cpu_quota(root), 2);
}

static void test_C27_version_1_knows_cpu_by_its_whole_name(void **state)
{
    (void)state;
    begin();
    groups("5:cpuset:/x\n4:cpuacct,cpu:/job\n3:cpuacct:/y\n1:name=systemd:/z\n0::/ignored\n");
    mounts(version1);
    put("/sys/fs/cgroup/cpuset/x/cpu.cfs_quota_us", "1\n");
    put("/sys/fs/cgroup/cpuset/x/cpu.cfs_period_us", "1\n");
    put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
    assert_int_equal(tn_cpu_quota(root), 0);
    put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "150000\n");
    assert_int_equal(tn_cpu_quota(root), 2);
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n");
    assert_int_equal(tn_cpu_quota(root), 2); /* a quota without a period */
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "50000");
    assert_int_equal(tn_cpu_quota(root), 1);
}

static void test_C27_both_versions_at_once(void **state)
{
    (void)state;
    begin();
    groups("4:cpu:/job\n0::/unit\n");
    mounts("32 24 0:29 / /one rw - cgroup cgroup rw,cpu\n33 24 0:30 / /two rw - cgroup2 cgroup2 rw\n");
    put("/one/job/cpu.cfs_quota_us", "300000\n");
    put("/one/job/cpu.cfs_period_us", "100000\n");
    assert_int_equal(tn_cpu_quota(root), 3);
    put("/two/unit/cpu.max", "200000 100000\n");
    assert_int_equal(tn_cpu_quota(root), 2);
}

static void test_C27_mounts_of_containers(void **state)
{
    (void)state;
    begin();
    put("/a b/sub/cpu.max", "200000 100000\n");
    put("/a b/cpu.max", "300000 100000\n");
    groups("0::/docker/ab12/sub\n");
    mounts("33 24 0:29 /docker/ab12 /a\\040b ro - cgroup2 cgroup2 rw\n"); /* its own group is the top */
    assert_int_equal(tn_cpu_quota(root), 2);
    groups("0::/docker/ab123\n"); /* not below it, though the letters are */
    assert_int_equal(tn_cpu_quota(root), 3);
    groups("0::/\n"); /* a namespace of its own, and a mount made outside it */
    mounts("33 24 0:29 /.. /a\\040b ro - cgroup2 cgroup2 rw\n");
    assert_int_equal(tn_cpu_quota(root), 3);
    groups("0::/../sub\n");
    mounts("33 24 0:29 / /a\\040b ro - cgroup2 cgroup2 rw\n");
    assert_int_equal(tn_cpu_quota(root), 3); /* nothing is looked for outside */
    put("/cpu.max", "100000 100000\n");
    mounts("33 24 0:29 / / ro - cgroup2 cgroup2 rw\n");
    assert_int_equal(tn_cpu_quota(root), 1); /* mounted at the very top */
}

static void test_C27_nonsense_is_passed_over(void **state)
{
    (void)state;
    static const char *const limits[] = {"",
                                         "\n",
                                         "max",
                                         "0 100000\n",
                                         "100000 0\n",
                                         "100000\n",
                                         "-5 100000\n",
                                         "1e5 100000\n",
                                         "100000  100000\n",
                                         "99999999999999999999 100000\n",
                                         "100000 99999999999999999999\n",
                                         " 100000 100000\n",
                                         "100000,100000\n"};
    begin();
    groups("0::/a\n");
    mounts(version2);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        put("/sys/fs/cgroup/a/cpu.max", limits[i]);
        assert_int_equal(tn_cpu_quota(root), 0);
    }
    put("/sys/fs/cgroup/a/cpu.max", "9223372036854775807 1\n");
    assert_int_equal(tn_cpu_quota(root), INT64_MAX);
    put("/sys/fs/cgroup/a/cpu.max", "200000 100000\n");
    assert_int_equal(tn_cpu_quota(root), 2);
    static const char *const lists[] = {"",       "\n",      "0::\n",       "0:/a\n",  "0\n",       "::/a\n",
                                        "0::a\n", "1::/a\n", "0:cpus:/a\n", ":::::\n", "0:cpu\n::", "\n\n\n0:::/a\n"};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        groups(lists[i]);
        assert_int_equal(tn_cpu_quota(root), 0);
    }
    groups("nonsense\n0::/a"); /* no end of the line */
    assert_int_equal(tn_cpu_quota(root), 2);
    static const char *const tables[] = {"",
                                         "\n",
                                         "- \n",
                                         " - cgroup2 cgroup2 rw\n",
                                         "33 24 0:29 / /sys/fs/cgroup rw\n",
                                         "33 24 0:29 / /sys/fs/cgroup rw -\n",
                                         "33 24 0:29 / /sys/fs/cgroup rw - \n",
                                         "33 24 0:29 / sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
                                         "33 24 0:29\n33\n\\\n\\0\n\\04\n",
                                         "33 24 0:29 / /sys/fs/cgroup rw - cgroup2x cgroup2 rw\n",
                                         "33 24 0:29 / /sys\\000/fs/cgroup rw - cgroup2 c rw\n"};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        mounts(tables[i]);
        assert_int_equal(tn_cpu_quota(root), 0);
    }
}

static void test_C27_long_lines_and_odd_files(void **state)
{
    (void)state;
    enum { LENGTH = 100000 };
    char *text = malloc(2 * LENGTH), *end;
    begin();
    memset(text, 'a', LENGTH);
    memcpy(text, "0::/", 4);
    strcpy(text + LENGTH, "\n0::/job\n");
    groups(text);
    mounts(version2);
    put("/sys/fs/cgroup/job/cpu.max", "200000 100000\n");
    assert_int_equal(tn_cpu_quota(root), 2);
    /* A mount point that is too long, beside one that is not; and thousands of folders above. */
    memcpy(text, "33 24 0:29 / /", 14);
    end = text + LENGTH;
    strcpy(end, " rw - cgroup2 cgroup2 rw\n");
    strcat(end, version2);
    mounts(text);
    assert_int_equal(tn_cpu_quota(root), 2);
    strcpy(text, "0::");
    for (int i = 0; i < 2000; i++)
        strcat(text, "/a");
    groups(text);
    put("/sys/fs/cgroup/cpu.max", "100000 100000\n");
    assert_int_equal(tn_cpu_quota(root), 1);
    /* A pipe without a writer does not make anybody wait; a folder is no file. */
    begin();
    groups("0::/job/a\n");
    mounts(version2);
    put("/sys/fs/cgroup/job/a/x", "");
    snprintf(text, LENGTH, "%s/sys/fs/cgroup/job/cpu.max", root);
    assert_int_equal(mkfifo(text, 0600), 0);
    snprintf(text, LENGTH, "%s/sys/fs/cgroup/job/a/cpu.max", root);
    assert_int_equal(mkdir(text, 0700), 0);
    assert_int_equal(tn_cpu_quota(root), 0);
    put("/sys/fs/cgroup/cpu.max", "100000 100000\n");
    assert_int_equal(tn_cpu_quota(root), 1);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_C27_version_2_takes_the_least_over_all_groups_around),
        cmocka_unit_test(test_C27_version_1_knows_cpu_by_its_whole_name),
        cmocka_unit_test(test_C27_both_versions_at_once),
        cmocka_unit_test(test_C27_mounts_of_containers),
        cmocka_unit_test(test_C27_nonsense_is_passed_over),
        cmocka_unit_test(test_C27_long_lines_and_odd_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
